-- Stores how far the index has caught up after a restore. Null: everything is indexed.
update {schema}.feed_readers set catch_up = $1 where name = 'search'
