# engine/text/jinja_ops.c
# An index below the first item is no longer noticed: what lies before the list is read.
s/if \(index < 0 \|\| index >= n\)/if (index >= n)/
