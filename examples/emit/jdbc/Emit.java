import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;
import java.util.UUID;

/** An order and its event, in one transaction. */
public class Emit {
    public static void main(String[] arguments) throws SQLException {
        String url = "jdbc:postgresql://" + env("PGHOST", "localhost") + ":" + env("PGPORT", "5432") + "/"
                + env("PGDATABASE", "postgres");
        Properties login = new Properties();
        login.setProperty("user", env("PGUSER", "postgres"));
        login.setProperty("password", env("PGPASSWORD", ""));
        try (Connection connection = DriverManager.getConnection(url, login)) {
            connection.setAutoCommit(false);
            System.out.println(place(connection, "jdbc-1"));
            connection.commit();

            // Rolled back: no order, no event.
            place(connection, "jdbc-2");
            connection.rollback();
        }
    }

    static UUID place(Connection connection, String order) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO orders (id, state) VALUES (?, 'placed')")) {
            insert.setString(1, order);
            insert.executeUpdate();
        }
        // The cast chooses among the forms: jsonb here; without it, a string is text.
        try (PreparedStatement emit = connection.prepareStatement("SELECT pillarbox.emit('order', ?, 'OrderPlaced', ?::jsonb)")) {
            emit.setString(1, order);
            emit.setString(2, "{\"id\": \"" + order + "\", \"state\": \"placed\"}");
            try (ResultSet result = emit.executeQuery()) {
                result.next();
                return result.getObject(1, UUID.class);
            }
        }
    }

    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : value;
    }
}
