create {unique}index {name} on {table} ({columns}){conditions}
