-- One batch of dead letters.
copy {schema}.dead_letters ({columns}) from stdin (format binary)
