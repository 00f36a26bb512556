// SPDX-License-Identifier: Apache-2.0
// Kafka Streams as its users write it: count, sum, max and last by user, over one minute and over
// all, in RocksDB, exactly once, with the changed rows on an output topic.
// Arguments: bootstrap, input topic, output topic, folder of the state.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;

public class StreamPeer {
    record Click(double amount, long atUs) {}

    /** The mean is the sum by the count, for whoever reads the row. */
    record Totals(long count, double sum, double max, double last) {
        static final Totals NONE = new Totals(0, 0.0, Double.NEGATIVE_INFINITY, 0.0);

        Totals plus(Click click) {
            double amount = click.amount();
            return new Totals(count + 1, sum + amount, Math.max(max, amount), amount);
        }
    }

    static final ObjectMapper JSON = new ObjectMapper();

    static Click read(byte[] value) {
        try {
            JsonNode node = JSON.readTree(value);
            return new Click(node.get("amount").doubleValue(), node.get("at").longValue());
        } catch (java.io.IOException err) {
            throw new IllegalArgumentException(err);
        }
    }

    static Serde<Click> clicks() {
        Serializer<Click> none = (topic, click) -> {
            throw new IllegalStateException("clicks are only read");
        };
        return Serdes.serdeFrom(none, (topic, bytes) -> read(bytes));
    }

    static Serde<Totals> totals() {
        Serializer<Totals> write = (topic, each) -> each == null ? null
            : ByteBuffer.allocate(32).putLong(each.count()).putDouble(each.sum())
                .putDouble(each.max()).putDouble(each.last()).array();
        Deserializer<Totals> read = (topic, bytes) -> {
            if (bytes == null) {
                return null;
            }
            ByteBuffer from = ByteBuffer.wrap(bytes);
            return new Totals(from.getLong(), from.getDouble(), from.getDouble(), from.getDouble());
        };
        return Serdes.serdeFrom(write, read);
    }

    public static void main(String[] arguments) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        KGroupedStream<String, Click> byUser = builder
            .stream(arguments[1], Consumed.with(Serdes.String(), clicks())
                .withTimestampExtractor((record, before) -> ((Click) record.value()).atUs() / 1000))
            .groupByKey(Grouped.with(Serdes.String(), clicks()));
        byUser.windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1)))
            .aggregate(() -> Totals.NONE, (user, click, before) -> before.plus(click),
                Materialized.with(Serdes.String(), totals()))
            .toStream((window, row) -> window.key() + "@" + window.window().start())
            .to(arguments[2], Produced.with(Serdes.String(), totals()));
        byUser.aggregate(() -> Totals.NONE, (user, click, before) -> before.plus(click),
                Materialized.with(Serdes.String(), totals()))
            .toStream()
            .to(arguments[2], Produced.with(Serdes.String(), totals()));

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "kafka-streams");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[3]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        // The events are older than any retention: their windows would go as they come.
        settings.put(StreamsConfig.topicPrefix(TopicConfig.RETENTION_MS_CONFIG), "-1");
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
        streams.start();
    }
}
