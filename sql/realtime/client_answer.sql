-- Answers the request $1 of the node $2 with the body $3; null: there is no such connection. That node looks for it by itself.
insert into {schema}.client_messages (request, node, body) values ($1, $2, $3) returning 1
