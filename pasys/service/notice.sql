-- Notices: the webhooks of PSPs, each stored once, however often and by however many copies it is received.

-- :receive   those that nobody has stored before; the order keeps two copies from waiting for each other
insert into psp_notice (psp, event_id, notice_id, type, object_id, transaction_id, payload, received_at)
select n.psp, n.event_id, n.notice_id, n.type, n.object_id, n.transaction_id, n.payload::jsonb, %(now)s
  from unnest(%(psps)s::text[], %(event_ids)s::text[], %(notice_ids)s::text[], %(types)s::text[],
              %(object_ids)s::text[], %(transaction_ids)s::text[], %(payloads)s::text[])
    as n (psp, event_id, notice_id, type, object_id, transaction_id, payload)
 order by n.psp, n.event_id
on conflict (psp, event_id) do nothing
returning notice_id;
