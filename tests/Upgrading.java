import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.io.ByteArrayInputStream;
import java.time.Duration;
import java.util.List;

/** Sends requests with Java's client and its defaults: small, large and chunked bodies, with and without Expect. Prints the statuses. */
public class Upgrading {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String small = "{\"seed\":1}";
        String large = small + " ".repeat(3_000_000);
        for (String body : List.of(small, large)) {
            byte[] bytes = body.getBytes();
            for (int kind = 0; kind < 3; kind++) {
                HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0]))
                    .timeout(Duration.ofSeconds(30)).header("Content-Type", "application/json");
                request.POST(kind == 1
                    ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes)) : BodyPublishers.ofByteArray(bytes));
                if (kind == 2) {
                    request.expectContinue(true);
                }
                System.out.println(client.send(request.build(), BodyHandlers.ofString()).statusCode());
            }
        }
    }
}
