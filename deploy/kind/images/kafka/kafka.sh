#!/bin/sh
# Runs Kafka from the settings in the file $1, and formats its log directory the first time.
set -eu
run() {
    exec java -Xms256m -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true \
        -cp '/opt/kafka/jars/*' "$@"
}
log_directory=$(sed -n 's/^log\.dirs=//p' "$1")
if [ ! -e "$log_directory/meta.properties" ]; then
    # Any 16 bytes in base64, and always the same: what was formatted once stays readable.
    (run kafka.tools.StorageTool format -t d2FsbGV0LW1hbmFnZXItbA -c "$1")
fi
run kafka.Kafka "$1"
