-- After statements of users: the session's parameters are those of its start again, among them search_path, by which operators are found.
-- The parameters of the transaction follow.
reset all;
