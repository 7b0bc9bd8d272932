import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/** Takes llama2.c's flags, run by a virtual machine: `java -cp CLASSES Port MODEL -t 0 ...`. */
public class Port {
    static int dim, hidden, layers, heads, kvHeads, vocab, context, head, kv;
    static ByteBuffer file;
    static float[] embedding, lastNorm, classifier;
    static float[][] attNorm, wq, wk, wv, wo, ffnNorm, w1, w2, w3;
    static final List<String> pieces = new ArrayList<>();
    static final List<Float> scores = new ArrayList<>();
    static final Map<String, Integer> idOf = new HashMap<>();
    static final List<List<float[]>> keys = new ArrayList<>(), values = new ArrayList<>();

    static float[] take(int n) {
        float[] out = new float[n];
        file.asFloatBuffer().get(out);
        file.position(file.position() + 4 * n);
        return out;
    }

    static float[][] perLayer(int n) {
        float[][] out = new float[layers][];
        for (int l = 0; l < layers; l++) out[l] = take(n);
        return out;
    }

    static void readModel(String path) throws IOException {
        file = ByteBuffer.wrap(Files.readAllBytes(Path.of(path))).order(ByteOrder.LITTLE_ENDIAN);
        int[] header = new int[7];
        for (int i = 0; i < 7; i++) header[i] = file.getInt();
        if (header[0] < 1 || header[0] > 1 << 18) die("bad header");
        dim = header[0]; hidden = header[1]; layers = header[2]; heads = header[3]; kvHeads = header[4];
        vocab = Math.abs(header[5]); context = header[6]; head = dim / heads; kv = kvHeads * head;
        embedding = take(vocab * dim);
        attNorm = perLayer(dim);
        wq = perLayer(dim * dim); wk = perLayer(kv * dim); wv = perLayer(kv * dim); wo = perLayer(dim * dim);
        ffnNorm = perLayer(dim);
        w1 = perLayer(hidden * dim); w2 = perLayer(dim * hidden); w3 = perLayer(hidden * dim);
        lastNorm = take(dim);
        take(context * head);
        classifier = header[5] > 0 ? embedding : take(vocab * dim);
        for (int l = 0; l < layers; l++) { keys.add(new ArrayList<>()); values.add(new ArrayList<>()); }
    }

    static void readTokenizer(String path) throws IOException {
        ByteBuffer data = ByteBuffer.wrap(Files.readAllBytes(Path.of(path))).order(ByteOrder.LITTLE_ENDIAN);
        data.getInt();
        for (int id = 0; id < vocab; id++) {
            scores.add(data.getFloat());
            byte[] piece = new byte[data.getInt()];
            data.get(piece);
            pieces.add(new String(piece, StandardCharsets.ISO_8859_1));
            idOf.putIfAbsent(pieces.get(id), id);
        }
    }

    static List<Integer> encode(String text) {
        List<Integer> ids = new ArrayList<>(List.of(1));
        if (!text.isEmpty()) ids.add(idOf.get(" "));
        text.codePoints().forEach(point -> {
            byte[] bytes = new String(Character.toChars(point)).getBytes(StandardCharsets.UTF_8);
            Integer id = idOf.get(new String(bytes, StandardCharsets.ISO_8859_1));
            if (id != null) ids.add(id);
            else for (byte b : bytes) ids.add((b & 255) + 3);
        });
        while (true) {
            int best = -1, merged = 0;
            for (int i = 0; i + 1 < ids.size(); i++) {
                Integer id = idOf.get(pieces.get(ids.get(i)) + pieces.get(ids.get(i + 1)));
                if (id != null && (best < 0 || scores.get(id) > scores.get(merged))) { best = i; merged = id; }
            }
            if (best < 0) return ids;
            ids.set(best, merged);
            ids.remove(best + 1);
        }
    }

    static float[] times(float[] w, float[] x, int n) {
        float[] out = new float[n];
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int j = 0; j < x.length; j++) sum += w[i * x.length + j] * (double) x[j];
            out[i] = (float) sum;
        }
        return out;
    }

    static float[] normed(float[] x, float[] gain) {
        double sum = 0;
        for (float v : x) sum += v * (double) v;
        double root = Math.sqrt(sum / dim + 1e-5);
        float[] out = new float[dim];
        for (int i = 0; i < dim; i++) out[i] = (float) (x[i] / root * gain[i]);
        return out;
    }

    static float[] turned(float[] x, int pos) {
        for (int i = 0; i < x.length; i += 2) {
            double angle = pos / Math.pow(10000, i % head / (double) head), c = Math.cos(angle), s = Math.sin(angle);
            float a = x[i], b = x[i + 1];
            x[i] = (float) (a * c - b * s);
            x[i + 1] = (float) (a * s + b * c);
        }
        return x;
    }

    static double[] softmax(double[] x) {
        double top = Double.NEGATIVE_INFINITY, sum = 0;
        for (double v : x) top = Math.max(top, v);
        for (int i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - top);
        for (int i = 0; i < x.length; i++) x[i] /= sum;
        return x;
    }

    static float[] attend(int layer, float[] q) {
        List<float[]> ks = keys.get(layer), vs = values.get(layer);
        float[] out = new float[dim];
        for (int n = 0; n < heads; n++) {
            int own = n * head, shared = n / (heads / kvHeads) * head;
            double[] weights = new double[ks.size()];
            for (int t = 0; t < weights.length; t++) {
                for (int j = 0; j < head; j++) weights[t] += q[own + j] * (double) ks.get(t)[shared + j];
                weights[t] /= Math.sqrt(head);
            }
            softmax(weights);
            for (int t = 0; t < weights.length; t++)
                for (int j = 0; j < head; j++) out[own + j] += weights[t] * vs.get(t)[shared + j];
        }
        return out;
    }

    static float[] forward(int id, int pos) {
        float[] x = java.util.Arrays.copyOfRange(embedding, id * dim, (id + 1) * dim);
        for (int l = 0; l < layers; l++) {
            float[] h = normed(x, attNorm[l]);
            float[] q = turned(times(wq[l], h, dim), pos);
            keys.get(l).add(turned(times(wk[l], h, kv), pos));
            values.get(l).add(times(wv[l], h, kv));
            float[] delta = times(wo[l], attend(l, q), dim);
            for (int i = 0; i < dim; i++) x[i] += delta[i];
            h = normed(x, ffnNorm[l]);
            float[] gate = times(w1[l], h, hidden), up = times(w3[l], h, hidden);
            for (int i = 0; i < hidden; i++) gate[i] = (float) (gate[i] / (1 + Math.exp(-gate[i])) * up[i]);
            delta = times(w2[l], gate, dim);
            for (int i = 0; i < dim; i++) x[i] += delta[i];
        }
        return times(classifier, normed(x, lastNorm), vocab);
    }

    static int choice(float[] logits, double temperature, Random random) {
        int best = 0;
        for (int i = 1; i < vocab; i++) if (logits[i] > logits[best]) best = i;
        if (temperature == 0) return best;
        double[] p = new double[vocab];
        for (int i = 0; i < vocab; i++) p[i] = logits[i] / temperature;
        double coin = random.nextDouble();
        softmax(p);
        for (int i = 0; i < vocab; i++) if ((coin -= p[i]) < 0) return i;
        return vocab - 1;
    }

    static void say(ByteArrayOutputStream out, int before, int id) {
        String piece = pieces.get(id);
        if (before == 1 && piece.startsWith(" ")) piece = piece.substring(1);
        if (piece.matches("<0x[0-9A-F]{2}>")) out.write(Integer.parseInt(piece.substring(3, 5), 16));
        else out.writeBytes(piece.getBytes(StandardCharsets.ISO_8859_1));
    }

    static void die(String message) {
        System.err.println(message);
        System.exit(1);
    }

    public static void main(String[] args) throws IOException {
        Map<String, String> given = new HashMap<>(Map.of(
            "-t", "1.0", "-p", "0.9", "-s", "0", "-n", "256", "-i", "", "-z", "tokenizer.bin"));
        if (args.length % 2 != 1) die("usage: Port MODEL [-t T] [-p P] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER]");
        for (int i = 1; i < args.length; i += 2)
            if (given.put(args[i], args[i + 1]) == null) die("unknown option " + args[i]);
        readModel(args[0]);
        readTokenizer(given.get("-z"));
        List<Integer> ids = encode(given.get("-i"));
        int asked = Integer.parseInt(given.get("-n")), steps = asked > 0 && asked < context ? asked : context;
        Random random = new Random(Long.parseLong(given.get("-s")));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (int pos = 0, id = ids.get(0); pos < steps; pos++) {
            float[] logits = forward(id, pos);
            int next = pos + 1 < ids.size()
                ? ids.get(pos + 1) : choice(logits, Double.parseDouble(given.get("-t")), random);
            if (next == 1) break;
            say(out, id, next);
            id = next;
        }
        out.write('\n');
        System.out.write(out.toByteArray());
        System.out.flush();
    }
}
