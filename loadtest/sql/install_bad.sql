-- What the bad events of a run violate. Rows that are there already are not looked at.
alter table requests drop constraint if exists loadtest_bad;
alter table requests add constraint loadtest_bad check (not payload ? 'loadtest_bad') not valid
