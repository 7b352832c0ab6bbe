-- Nobody searches by which transfers a transaction has, nor by the sums of an account, and the planner need not know how
-- they are distributed. Sorting samples of the former took more than all other columns of a transaction together, and the
-- latter change with every transfer: a twentieth of all the CPU that the import of a file took.

alter table transaction alter column transfer_ids set statistics 0;
alter table account alter column version set statistics 0,
                    alter column debits_pending set statistics 0,
                    alter column debits_posted set statistics 0,
                    alter column credits_pending set statistics 0,
                    alter column credits_posted set statistics 0;
alter table account set (autovacuum_analyze_scale_factor = 1);
