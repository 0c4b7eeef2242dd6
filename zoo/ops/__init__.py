"""Functions of tensors: recurrences and scans, each fast form beside a slow one."""
