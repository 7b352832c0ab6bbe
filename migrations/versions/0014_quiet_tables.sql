-- As with the journal (0011, 0012): events, steps and keys are hardly ever anything but added to, and read by their
-- keys. The server went through all new rows every ten seconds, to mark what is old, and sorted samples of them for the
-- planner: a twelfth of all the CPU that the import of a file took. What is deleted among them is still cleaned up after.
-- Transactions change, and what changes is cleaned up; those that never do need nothing.

alter table event set (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1);
alter table transaction_history set (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1);
alter table idempotency set (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1);
alter table transaction set (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0.5);

select ledger_statistics('event', 10), ledger_statistics('transaction_history', 10), ledger_statistics('idempotency', 10);
