-- Ids of another form than the service makes. Those that are there have the narrower form, so none has to be looked at.
alter table {table}
    drop constraint if exists {name}_id_check,
    add constraint {name}_id_check
        check (octet_length(id) between 1 and 100 and id !~ '[[:cntrl:]./\\|''"`<>:?*%$ ]') not valid;
