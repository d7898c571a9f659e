"""What the pages of companions share: a head, colours, and rules that keep data from acting."""
