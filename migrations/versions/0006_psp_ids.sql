-- What a PSP calls a charge, a refund, a statement's source and a webhook's object is found by an index.
-- Built while everybody works on: each statement is a transaction of its own, and one that was interrupted begins again.

drop index concurrently if exists transaction_charge_reference_idx;
create index concurrently transaction_charge_reference_idx on transaction (charge_reference)
    where charge_reference is not null;

drop index concurrently if exists refund_psp_reference_idx;
create index concurrently refund_psp_reference_idx on refund (psp_reference) where psp_reference is not null;

drop index concurrently if exists statement_line_source_id_idx;
create index concurrently statement_line_source_id_idx on statement_line (source_id) where source_id is not null;

drop index concurrently if exists psp_notice_object_id_idx;
create index concurrently psp_notice_object_id_idx on psp_notice (object_id) where object_id is not null;

drop index concurrently if exists reconciliation_break_run_id_idx;
create index concurrently reconciliation_break_run_id_idx on reconciliation_break (run_id) where run_id is not null;
