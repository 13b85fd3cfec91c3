"""What people look at: plain values in, lines and tables out; nothing here changes a sweep."""
