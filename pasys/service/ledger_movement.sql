-- What moved an account's balance, from its newest movement backwards. However long its history is, a page costs the same.

-- :heads
-- How far each asset's journal has come.
select code, last_seq from asset order by code

-- :seq_at
-- The last row of an asset's journal at a time.
select ledger_seq_at(%(asset)s, %(at)s)

-- :movements
-- Each side by its own index, backwards; a row that moves nothing (a hold, a void, a refusal) is passed over.
select entry.*, a.name as counterparty
  from ((select seq, id, code, reference, recorded_at as at, credit as other, -amount as change, debit_balance as balance
           from transfer
          where asset = %(asset)s and debit = %(account)s and seq <= %(seq)s and result = 0 and kind in (0, 2)
          order by seq desc limit %(limit)s)
        union all
        (select seq, id, code, reference, recorded_at, debit, amount, credit_balance
           from transfer
          where asset = %(asset)s and credit = %(account)s and seq <= %(seq)s and result = 0 and kind in (0, 2)
          order by seq desc limit %(limit)s)) entry
  left join account a on a.id = entry.other
 order by entry.seq desc limit %(limit)s
