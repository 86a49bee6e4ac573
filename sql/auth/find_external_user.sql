select id from {schema}.users where issuer = $1 and subject = $2
