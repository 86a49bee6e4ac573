-- Messages of one part. The columns are named, so that users may add their own.
copy {schema}.messages ({columns}) from stdin (format binary)
