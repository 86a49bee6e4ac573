create trigger {function} after insert on {schema}.requests referencing new table as batch
    for each statement execute function {schema}.{function}()
