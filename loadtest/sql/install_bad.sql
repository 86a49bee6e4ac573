-- The constraint that the bad events of a run violate. Existing rows are not checked.
alter table requests drop constraint if exists loadtest_bad;
alter table requests add constraint loadtest_bad check (not payload ? 'loadtest_bad') not valid
