-- Uses a ticket up: of several requests at once, on any nodes, one gets its row. A trigger that keeps the row makes the ticket unusable.
delete from {schema}.auth_tickets where hash = $1 returning credential, expires > now() as is_valid
