-- Signed checkpoints of the journal.

-- :assets
select code from asset order by code

-- :behind
-- Assets that have moved since their last checkpoint.
select a.code as asset from asset a
 where a.last_seq > coalesce((select max(seq) from checkpoint where asset = a.code), 0)
 order by a.code

-- :last_seq
select last_seq from asset where code = %(asset)s

-- :add
insert into checkpoint (asset, seq, hash, state_hash, key_id, signature, at)
values (%(asset)s, %(seq)s, %(hash)s, %(state_hash)s, %(key_id)s, %(signature)s, %(at)s)

-- :at
select * from checkpoint where asset = %(asset)s and seq = %(seq)s

-- :behind_archives
-- The checkpoint at the last archived row of each asset that has one.
select a.code, c.* from asset a left join checkpoint c on c.asset = a.code and c.seq = a.archived_seq
 where a.archived_seq > 0

-- :keep_state
insert into checkpoint_state (asset, seq, state) values (%(asset)s, %(seq)s, %(state)s)
    on conflict (asset) do update set seq = excluded.seq, state = excluded.state

-- :state
-- An asset's last checkpoint with its state.
select c.*, s.state from checkpoint c join checkpoint_state s on s.asset = c.asset and s.seq = c.seq
 where c.asset = %(asset)s
 order by c.seq desc limit 1

-- :listing
select * from checkpoint where %(asset)s::text is null or asset = %(asset)s order by at desc, asset limit %(limit)s

-- :latest
select distinct on (asset) * from checkpoint order by asset, seq desc

-- :before
select * from checkpoint where asset = %(asset)s and seq < %(seq)s order by seq desc limit 1

-- :after
select * from checkpoint where asset = %(asset)s and seq >= %(seq)s order by seq limit 1
