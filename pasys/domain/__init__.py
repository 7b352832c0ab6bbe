"""RULES. Facts in, decision out: no await, no clock, no SQL, no I/O."""
