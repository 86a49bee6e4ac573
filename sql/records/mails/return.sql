-- Gives back what was taken for a mail that was not sent, or whose purpose is done.
delete from {schema}.mail_limits where key = $1
