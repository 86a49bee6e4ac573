-- Before a list: the compilation of a large filter would take longer than the list, up to the statement's limit.
set local jit = off
