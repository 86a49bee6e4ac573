-- How far the index has caught up after a restore; null: all is known.
update {schema}.feed_readers set catch_up = $1 where name = 'search'
