-- One batch of events. The columns are named, so that users may add their own.
copy {schema}.requests ({columns}) from stdin (format binary)
