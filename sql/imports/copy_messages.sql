-- Messages of one part. The columns are named, so that users can add their own.
copy {schema}.messages ({columns}) from stdin (format binary)
