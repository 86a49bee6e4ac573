copy tidegate_doctor ({columns}) from stdin (format binary)
