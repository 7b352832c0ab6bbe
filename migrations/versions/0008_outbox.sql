-- What is wanted out at once is found behind a backlog of millions.
create index outbox_at_once_idx on outbox (event_id) where claimed_until is null;
