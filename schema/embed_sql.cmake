# cmake -DIN=x.sql -DOUT=x_sql.h -DNAME=x_sql -P embed_sql.cmake: the SQL as a C string.
file(READ ${IN} text)
string(REPLACE "\\" "\\\\" text "${text}")
string(REPLACE "\"" "\\\"" text "${text}")
string(REPLACE "\n" "\\n\"\n    \"" text "${text}")
file(WRITE ${OUT} "/* Made from the .sql file of the same name. */\nstatic const char ${NAME}[] =\n    \"${text}\";\n")
