-- Trace: from any id to the story that it belongs to, and everything in that story. One query a table, whatever the size.

-- :story   the story that an id of ours belongs to: its transaction, its run, or else itself
with known as (
    select id as story from transaction where id = %(id)s
    union all select transaction_id from refund where id = %(id)s
    union all select correlation_id from event where id = %(id)s
    union all select transaction_id from fraud_decision where id = %(id)s
    union all select coalesce(transaction_id, notice_id) from psp_notice where notice_id = %(id)s
    union all select coalesce(entity_id, id) from reconciliation_break where id = %(id)s
    union all select id from reconciliation_run where id = %(id)s
    union all select id from transaction where psp_reference = %(id)s)
select coalesce(t.parent_id, t.id, r.transaction_id, n.transaction_id, k.story) as story
  from known k
  left join transaction t on t.id = k.story
  left join refund r on r.id = k.story
  left join psp_notice n on n.notice_id = k.story
 order by t.id is null, 1 limit 1;

-- :story_of_transfer   the story of a line of the journal
select coalesce(t.parent_id, t.id, r.transaction_id, b.entity_id, j.id::text) as story
  from transfer_key k join transfer j on j.asset = k.asset and j.seq = k.seq
  left join transaction t on t.id = j.reference
  left join refund r on r.id = j.reference
  left join reconciliation_break b on b.id = j.reference
 where k.id = %(id)s;

-- :story_at_psp   the story of a PSP's id, each by an index; what begins with a PSP's name is asked for PSP by PSP
with line as (
    select l.* from unnest(%(psps)s::text[]) as p (psp) join statement_line l on l.psp = p.psp and l.line_id = %(id)s
    union all select * from statement_line where source_id = %(id)s),
notice as (
    select n.* from unnest(%(psps)s::text[]) as p (psp) join psp_notice n on n.psp = p.psp and n.event_id = %(id)s
    union all select * from psp_notice where object_id = %(id)s),
known as (
    select id as story from transaction where charge_reference = %(id)s
    union all select transaction_id from refund where psp_reference = %(id)s
    union all select coalesce(r.transaction_id, l.matched_id, l.transaction_id, l.line_id)
                from line l left join refund r on r.id = coalesce(l.matched_id, l.refund_id)
    union all select coalesce(transaction_id, notice_id) from notice)
select coalesce(t.parent_id, t.id, known.story) as story
  from known
  left join transaction t on t.id = known.story
 order by t.id is null, 1 limit 1;

-- :transactions   the transaction that a story is about, and the one that reversed it
select t.*, d.name as debit, c.name as credit
  from transaction t
  join account d on d.id = t.debit_account
  join account c on c.id = t.credit_account
 where t.id = %(story)s or t.parent_id = %(story)s
 order by t.id;

-- :transaction_history   how transactions came to be what they are, oldest first
select transaction_id as id, from_status, to_status, at, reason, event_id, actor
  from transaction_history where transaction_id = any (%(ids)s::text[])
 order by at, case when from_status is null then 0 else 1 end;

-- :refunds   what went back, or was to
select * from refund where transaction_id = any (%(ids)s::text[]) order by id;

-- :refund_history   how refunds came to be what they are, oldest first
select refund_id as id, from_status, to_status, at, reason, event_id, actor
  from refund_history where refund_id = any (%(ids)s::text[])
 order by at, case when from_status is null then 0 else 1 end;

-- :verdicts   the fraud check's decisions
select * from fraud_decision where transaction_id = any (%(ids)s::text[]) order by id;

-- :attempts   every call of a PSP
select * from attempt where transaction_id = any (%(ids)s::text[]) order by requested_at, entity_id, step;

-- :notices   what PSPs told us by themselves
select * from psp_notice
 where transaction_id = any (%(ids)s::text[]) or notice_id = %(story)s
 order by received_at, notice_id;

-- :runs   a run of reconciliation, where the story is about one
select * from reconciliation_run where id = %(story)s;

-- :breaks   what did not agree: about these entities, about the lines that stand for them, or found by this run
select * from reconciliation_break
 where entity_id = any (%(entities)s::text[]) or id = %(story)s or run_id = %(story)s or line_id = %(story)s
    or line_id = any (array(select line_id from statement_line where matched_id = any (%(entities)s::text[])))
 order by id limit %(limit)s;

-- :lines   the lines of statements that stand for these entities, that a break is about, or that the story is
select * from statement_line where matched_id = any (%(entities)s::text[])
union
select l.* from unnest(%(psps)s::text[], %(lines)s::text[]) as named (psp, line_id)
  join statement_line l on l.psp = named.psp and l.line_id = named.line_id
 order by created_at, line_id, occurrence limit %(limit)s;

-- :events   everything that was announced about a story, and about its breaks
select id, subject, entity_id, body, at from event
 where correlation_id = any (%(stories)s::text[])
    or (correlation_id = any (%(runs)s::text[]) and entity_id = any (%(breaks)s::text[]))
 order by id limit %(limit)s;
