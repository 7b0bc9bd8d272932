# Answers and ends, but a child of it keeps stdout and stderr open.
sleep 1000 &
echo "Once upon a time"
