-- Reconciliation: a PSP's statement as we have read it, what of ours each line stands for, and what has no counterpart.

-- :one_at_a_time   pages of one PSP's statements are judged one after the other
select pg_advisory_xact_lock(hashtextextended('reconciliation:' || %(psp)s, 0));

-- :reading   a run that is still being read, locked
select id, psp, since, until from reconciliation_run where id = %(run_id)s and status = 'reading' for update;

-- :watermark   how far every line has been read: only runs without a beginning of their own tell
select max(until) from reconciliation_run where psp = %(psp)s and status = 'completed' and since = %(epoch)s;

-- :due   PSPs that have been asked for anything, and whose statement nobody is reading
select p.psp
  from unnest(%(psps)s::text[]) as p (psp)
 where exists (select from attempt a where a.psp = p.psp)
   and not exists (select from reconciliation_run r where r.psp = p.psp and r.status = 'reading')
 order by p.psp;

-- :abandon   runs whose next page never came
update reconciliation_run set status = 'failed', reason = 'its next page never came', finished_at = %(now)s
 where status = 'reading' and started_at < %(before)s;

-- :store   the lines of a page. A line whose content has changed is no longer matched
with seen as (
    select * from unnest(%(line_ids)s::text[], %(types)s::text[], %(assets)s::text[], %(amounts)s::bigint[],
                         %(fees)s::bigint[], %(sources)s::text[], %(transactions)s::text[], %(refunds)s::text[],
                         %(statuses)s::text[], %(descriptions)s::text[], %(times)s::timestamptz[])
           with ordinality
        as s (line_id, type, asset, amount_minor, fee_minor, source_id, transaction_id, refund_id, status, description,
              created_at, place)),
before as (
    select line_id, count(*) as times from statement_line
     where psp = %(psp)s and run_id = %(run_id)s and line_id = any (%(line_ids)s::text[])
     group by line_id)
insert into statement_line as l (psp, line_id, occurrence, run_id, type, asset, amount_minor, fee_minor, source_id,
                                 transaction_id, refund_id, status, description, created_at)
select %(psp)s, s.line_id, coalesce(b.times, 0) + row_number() over (partition by s.line_id order by s.place),
       %(run_id)s, s.type, s.asset, s.amount_minor, s.fee_minor, s.source_id, s.transaction_id, s.refund_id, s.status,
       s.description, s.created_at
  from seen s left join before b using (line_id)
    on conflict (psp, line_id, occurrence) do update
   set run_id = excluded.run_id, type = excluded.type, asset = excluded.asset, amount_minor = excluded.amount_minor,
       fee_minor = excluded.fee_minor, source_id = excluded.source_id, transaction_id = excluded.transaction_id,
       refund_id = excluded.refund_id, status = excluded.status, description = excluded.description,
       created_at = excluded.created_at,
       matched = l.matched and (l.type, l.asset, l.amount_minor, l.fee_minor)
                             = (excluded.type, excluded.asset, excluded.amount_minor, excluded.fee_minor);

-- :unmatched_of_page   lines of a page that agree with nothing yet
select line_id, occurrence, type, asset, amount_minor, fee_minor, source_id, transaction_id, refund_id, status,
       created_at, matched_id
  from statement_line
 where psp = %(psp)s and run_id = %(run_id)s and line_id = any (%(line_ids)s::text[]) and not matched
 order by created_at, line_id, occurrence;

-- :left_over   lines of earlier runs that agree with nothing yet: our side may have caught up
select line_id, occurrence, type, asset, amount_minor, fee_minor, source_id, transaction_id, refund_id, status,
       created_at, matched_id
  from statement_line
 where psp = %(psp)s and created_at >= %(since)s and created_at < %(until)s and not matched and occurrence = 1
   and run_id <> %(run_id)s and (created_at, line_id) > (%(after)s, %(after_id)s)
 order by created_at, line_id
 limit %(limit)s;

-- :payments   transactions that lines may stand for
select id as entity_id, asset, captured_minor as amount_minor, nullif(fee_minor, 0) as fee_minor, status,
       captured_minor > 0 as booked, status in ('initialized', 'pending') as settling, charge_reference as reference
  from transaction
 where rail = %(psp)s and id = any (%(ids)s::text[]);

-- :payments_by_reference   the same by the PSP's own id
select id from transaction where rail = %(psp)s and charge_reference = any (%(references)s::text[]);

-- :refunds   refunds that lines may stand for
select r.id as entity_id, r.asset, -r.amount_minor as amount_minor, 0::bigint as fee_minor, r.status,
       r.status = 'completed' as booked,
       r.status in ('requested', 'awaiting_approval', 'approved', 'reserved', 'sent') as settling,
       r.psp_reference as reference
  from refund r join transaction t on t.id = r.transaction_id
 where t.rail = %(psp)s and r.id = any (%(ids)s::text[]);

-- :refunds_by_reference   the same by the PSP's own id
select r.id from refund r join transaction t on t.id = r.transaction_id
 where t.rail = %(psp)s and r.psp_reference = any (%(references)s::text[]);

-- :payouts   payouts that were posted by an earlier report
select t.id::text as entity_id, t.asset, case when a.name = 'bank:main' then -t.amount else t.amount end as amount_minor,
       null::bigint as fee_minor, 'posted' as status, true as booked, false as settling, null::text as reference
  from transfer_key k join transfer t on t.asset = k.asset and t.seq = k.seq join account a on a.id = t.debit
 where k.id = any (%(ids)s::uuid[]);

-- :stand_ins   the lines that stand for these entities already, whether they agree with them or not
select entity_id, line_id from reconciliation_break
 where entity_id = any (%(ids)s::text[]) and kind in ('amount', 'fee', 'currency', 'late') and line_id is not null
union all
select matched_id, line_id from statement_line
 where matched_id = any (%(ids)s::text[]) and occurrence = 1;

-- :known_breaks   all that was ever found about these lines, and about the absence of these entities
select id, run_id, kind, asset, line_id, entity_id, difference_minor, status, resolution,
       cardinality(transfer_ids) > 0 as posted,
       coalesce((evidence -> 'found' ->> 'occurrence')::int, 1) as occurrence
  from reconciliation_break
 where psp = %(psp)s
   and (line_id = any (%(lines)s::text[]) or (entity_id = any (%(entities)s::text[]) and kind = 'missing_at_psp'));

-- :mark_matched   lines that agree with what they stand for
update statement_line l set matched = true, matched_id = coalesce(l.matched_id, s.entity_id)
  from unnest(%(lines)s::text[], %(entities)s::text[]) as s (line_id, entity_id)
 where l.psp = %(psp)s and l.line_id = any (%(lines)s::text[]) and l.line_id = s.line_id and l.occurrence = 1;

-- :tell_fees   fees that the statement tells for the first time, once for each transaction
with chosen as (
    select id from transaction
     where id = any (%(ids)s::text[]) and fee_minor = 0 and captured_minor > 0
     order by id for update)
update transaction t set fee_minor = s.fee_minor, transfer_ids = t.transfer_ids || s.transfer_id
  from unnest(%(ids)s::text[], %(fees)s::bigint[], %(transfers)s::uuid[]) as s (id, fee_minor, transfer_id)
  join chosen using (id)
 where t.id = any (%(ids)s::text[]) and t.id = s.id
returning t.id;

-- :close_breaks   open breaks that need nobody's decision any more
update reconciliation_break
   set status = 'resolved', resolution = %(resolution)s, actor = %(actor)s, resolved_at = %(now)s
 where id = any (%(ids)s::text[]) and status = 'open'
returning id, run_id, asset;

-- :no_longer_repeated   breaks of lines that were listed twice once, and only once in this run
update reconciliation_break b
   set status = 'resolved', resolution = %(resolution)s, actor = %(actor)s, resolved_at = %(now)s
  from statement_line first, statement_line again
 where b.psp = %(psp)s and b.status = 'open' and b.kind = 'duplicate'
   and first.psp = b.psp and first.line_id = b.line_id and first.occurrence = 1 and first.run_id = %(run_id)s
   and again.psp = b.psp and again.line_id = b.line_id
   and again.occurrence = (b.evidence -> 'found' ->> 'occurrence')::int and again.occurrence > 1
   and again.run_id <> %(run_id)s
returning b.id, b.run_id, b.asset;

-- :missing   what we booked in this window and no line stands for. A call of the PSP began at `requested_at` and its
-- money had moved by `finished_at`; a window whose lines are all read must hold both
with moved as (
    select entity_id, transaction_id, step, finished_at from attempt
     where psp = %(psp)s and step in ('capture', 'refund') and outcome = 'succeeded'
       and requested_at >= %(asked_since)s and finished_at >= %(moved_since)s and finished_at < %(until)s),
ours as (
    select t.id as entity_id, t.asset, t.captured_minor as amount_minor, t.fee_minor, t.status,
           t.charge_reference as reference, m.finished_at as moved_at
      from moved m join transaction t on t.id = m.transaction_id
     where m.step = 'capture' and t.captured_minor > 0
    union all
    select r.id, r.asset, -r.amount_minor, 0, r.status, r.psp_reference, m.finished_at
      from moved m join refund r on r.id = m.entity_id
     where m.step = 'refund' and r.status = 'completed')
select entity_id, asset, amount_minor, fee_minor, status, reference, moved_at
  from ours o
 where not exists (select from statement_line l where l.matched_id = o.entity_id)
   and not exists (select from reconciliation_break b where b.entity_id = o.entity_id
                      and (b.kind = 'missing_at_psp'
                           or (b.kind in ('amount', 'fee', 'currency', 'status', 'late') and b.line_id is not null)))
 order by entity_id;

-- :complete   the run, with what its window holds now
update reconciliation_run r
   set status = 'completed', finished_at = %(now)s, lines = c.lines, matched = c.matched, breaks = b.breaks
  from (select count(*) as lines, count(*) filter (where matched) as matched
          from statement_line where psp = %(psp)s and created_at >= %(since)s and created_at < %(until)s) c,
       (select count(*) as breaks from reconciliation_break
         where psp = %(psp)s and status = 'open'
           and (evidence ->> 'at')::timestamptz >= %(since)s and (evidence ->> 'at')::timestamptz < %(until)s) b
 where r.id = %(run_id)s
returning r.matched, r.breaks;

-- :of_run   the breaks that a run found, and the older ones in its window that are still open
select b.* from reconciliation_break b, reconciliation_run r
 where r.id = %(run_id)s and b.psp = r.psp
   and (b.run_id = r.id
        or (b.status = 'open' and b.found_at <= coalesce(r.finished_at, r.started_at)
            and (b.evidence ->> 'at')::timestamptz >= r.since and (b.evidence ->> 'at')::timestamptz < r.until))
 order by b.id
 limit %(limit)s;

-- :posted_transfers   what a transaction or a refund has posted
select coalesce((select transfer_ids from transaction where id = %(entity_id)s),
                (select transfer_ids from refund where id = %(entity_id)s));

-- :ages   how long breaks have been open, by kind; the index of what is open has all of them
select kind, count(*) filter (where found_at > %(hour)s) as hour,
       count(*) filter (where found_at <= %(hour)s and found_at > %(day)s) as day,
       count(*) filter (where found_at <= %(day)s) as longer, min(found_at) as oldest
  from reconciliation_break where status = 'open' group by kind order by kind;

-- :corrected_transfer   the transfer that a corrective entry is about, if there is one
select j.id from transfer_key k join transfer j on j.asset = k.asset and j.seq = k.seq
 where k.id = any (coalesce((select transfer_ids from transaction where id = %(entity_id)s),
                            (select transfer_ids from refund where id = %(entity_id)s)))
   and j.result = 0 and j.kind in (0, 2) and %(receivable)s in (j.debit, j.credit) and (j.code = %(fee)s) = %(about_fee)s
 order by j.seq
 limit 1;

-- :settle_line   a line agrees with the books once its last break has its entry
update statement_line l set matched = true, matched_id = coalesce(l.matched_id, %(entity_id)s)
 where l.psp = %(psp)s and l.line_id = %(line_id)s and l.occurrence = 1
   and not exists (select from reconciliation_break b
                    where b.psp = l.psp and b.line_id = l.line_id and b.status = 'open'
                      and coalesce((b.evidence -> 'found' ->> 'occurrence')::int, 1) = 1);
