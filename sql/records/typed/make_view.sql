create view {views}.{name} as select {columns} from {table}
