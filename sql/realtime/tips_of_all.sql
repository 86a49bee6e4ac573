select xid, number, number as tip from visible
