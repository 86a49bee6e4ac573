-- Waits for the running COPYs.
drop trigger if exists {function} on {schema}.requests;
drop function if exists {schema}.{function}();
drop function if exists {schema}.{function}_apply({schema}.requests[]);
