-- One batch of events. The columns are named, so that users can add their own.
copy {schema}.requests ({columns}) from stdin (format binary)
