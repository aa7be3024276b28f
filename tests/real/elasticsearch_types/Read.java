import co.elastic.clients.elasticsearch.ilm.PutLifecycleRequest;
import co.elastic.clients.elasticsearch.indices.PutIndexTemplateRequest;
import co.elastic.clients.elasticsearch.ingest.PutPipelineRequest;
import java.io.StringReader;
import java.nio.file.Files;
import java.nio.file.Path;

/** Reads a lifecycle policy, an ingest pipeline and an index template as Elastic's own client does; a line for each. */
public class Read {
    public static void main(String[] folders) throws Exception {
        for (String folder : folders) {
            read(Path.of(folder, "lifecycle.json"));
            read(Path.of(folder, "pipeline.json"));
            read(Path.of(folder, "template.json"));
        }
    }

    private static void read(Path file) throws Exception {
        var text = new StringReader(Files.readString(file));
        try {
            switch (file.getFileName().toString()) {
                case "lifecycle.json" -> PutLifecycleRequest.of(request -> request.name("x").withJson(text));
                case "pipeline.json" -> PutPipelineRequest.of(request -> request.id("x").withJson(text));
                default -> PutIndexTemplateRequest.of(request -> request.name("x").withJson(text));
            }
            System.out.println("ok " + file);
        } catch (RuntimeException refused) {
            System.out.println("refused " + file + ": " + refused.getMessage());
        }
    }
}
