"""pasys: payments, settlement, and the double-entry books that prove them.

The layers, from the top; a module imports only from lines below its own (tests/test_house.py):

    daemons | pasys.cli                              faces: parse, call one verb, show
    pasys.stack                                      starts servers and faces as processes
    pasys.worker                                     the loop that runs one daemon
    pasys.service | pasys.daemon                     verbs | what a daemon is
    pasys.adapters | pasys.db | pasys.bus            doors: the world | the books | the wire
    pasys.domain                                     rules: no await, no clock, no SQL
    pasys.events                                     every fact that travels
    pasys.money | pasys.ids | pasys.config           kernel
    pasys.errors                                     everything that can go wrong
"""

__version__ = "0.1.0"
