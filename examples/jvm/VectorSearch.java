import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.regex.Pattern;

/** Asks the vector service from the JVM, with nothing but the JDK: java VectorSearch.java URL QUERY */
public class VectorSearch {
    // One client for the life of the process: it keeps connections open. The service speaks HTTP/1.1.
    private static final HttpClient CLIENT = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(1))
            .build();

    public static void main(String[] arguments) throws Exception {
        String body = "{\"query\": " + quoted(arguments[1]) + ", \"top_k\": 3, \"exclude_ids\": []}";
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/search"))
                .timeout(Duration.ofSeconds(3))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            // A problem body: "code" is for programs, "detail" for people. 503 and 429 carry Retry-After.
            System.err.println(answer.statusCode() + " " + answer.body());
            System.exit(1);
        }
        // With Jackson or kotlinx.serialization this is one line; the JDK has no JSON reader.
        var row = Pattern.compile("\"recipe_id\":(\\d+),\"distance\":([0-9.eE+-]+)").matcher(answer.body());
        while (row.find()) {
            System.out.println(row.group(1) + " " + row.group(2));
        }
    }

    private static String quoted(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char each : text.toCharArray()) {
            if (each == '"' || each == '\\') {
                quoted.append('\\').append(each);
            } else if (each < 0x20) {
                quoted.append(String.format("\\u%04x", (int) each));
            } else {
                quoted.append(each);
            }
        }
        return quoted.append('"').toString();
    }
}
