-- Search finds parts of words as well: the documents that were made so far have wholes only.

-- Documents whose words are of an older form: those with ids up to `last`. They are made anew behind the writes, in the order of
-- their ids; those up to `done` were. A row while there are some, none otherwise.
create table {schema}.search_rebuild (
    only_one boolean primary key default true check (only_one),
    done uuid not null,
    last uuid not null
);
insert into {schema}.search_rebuild (done, last)
select '00000000-0000-0000-0000-000000000000', id from {schema}.search_documents order by id desc limit 1;
