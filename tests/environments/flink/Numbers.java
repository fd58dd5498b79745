import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** A job of some seconds that writes the numbers from 1 to N: Numbers HOST PORT N FOLDER. */
public class Numbers {
  public static void main(String[] arguments) throws Exception {
    Configuration configuration = new Configuration();
    configuration.setString("execution.target", "remote");
    configuration.setString("rest.address", arguments[0]);
    configuration.setString("rest.port", arguments[1]);
    configuration.setString("parallelism.default", "2");
    TableEnvironment tables =
        TableEnvironment.create(
            EnvironmentSettings.newInstance()
                .inBatchMode()
                .withConfiguration(configuration)
                .build());
    String count = arguments[2];
    tables.executeSql(
        "CREATE TABLE numbers (n INT) WITH ('connector' = 'datagen', 'rows-per-second' = '20',"
            + (" 'number-of-rows' = '" + count + "', 'fields.n.kind' = 'sequence',")
            + (" 'fields.n.start' = '1', 'fields.n.end' = '" + count + "')"));
    tables.executeSql(
        "CREATE TABLE written (n INT) WITH ('connector' = 'filesystem', 'format' = 'csv',"
            + (" 'path' = 'file://" + arguments[3] + "')"));
    tables.executeSql("INSERT INTO written SELECT n FROM numbers").await();
  }
}
