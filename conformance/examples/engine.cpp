// A whole engine of CLIP as a program: ViTs and texts, C++17 without any library; the starter, filled in.
//
//     g++ -O2 -std=c++17 engine.cpp -o engine
//     clipref conformance run exec:./engine --levels describe towers taps similarity
//
// It is called as `engine VERB CASE_DIR OUT.safetensors`, reads CASE_DIR/case.json and CASE_DIR/inputs.safetensors,
// writes the outputs to OUT.safetensors and exits with 0, or with 3 for what it doesn't do: ResNets, tokens, pixels,
// single operations. What is not between "yours begins" and "yours ends" is that of `clipref conformance init cpp`.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

// --- files: JSON, and safetensors ------------------------------------------------------------------------------------

struct Json {
    std::string text;  // of a string; of anything else that is not an array or an object, as it is written
    std::vector<Json> items;
    std::map<std::string, Json> members;

    const Json& operator[](const std::string& name) const { return members.at(name); }
    size_t size() const { return std::stoull(text); }
};

class JsonReader {
  public:
    explicit JsonReader(const std::string& source) : p_(source.data()), end_(p_ + source.size()) {}

    Json value() {
        Json json;
        switch (peek()) {
            case '{':
                while (open_or_comma('{', '}')) {
                    std::string name = string();
                    expect(':');
                    json.members[name] = value();
                }
                return json;
            case '[':
                while (open_or_comma('[', ']')) json.items.push_back(value());
                return json;
            case '"':
                json.text = string();
                return json;
            default:
                while (p_ != end_ && !std::strchr(",]} \t\r\n", *p_)) json.text += *p_++;
                return json;
        }
    }

  private:
    const char *p_, *end_;

    char peek() {
        while (p_ != end_ && std::strchr(" \t\r\n", *p_)) ++p_;
        if (p_ == end_) throw std::runtime_error("JSON ends too early");
        return *p_;
    }

    void expect(char c) {
        if (peek() != c) throw std::runtime_error(std::string("JSON has no ") + c);
        ++p_;
    }

    // Whether another element follows; steps over the bracket or the comma before it, or over the closing bracket.
    bool open_or_comma(char open, char close) {
        char c = peek();
        if (c == close) return ++p_, false;
        if (c != open && c != ',') throw std::runtime_error("JSON has no comma");
        ++p_;
        return c == ',' || peek() != close || (++p_, false);
    }

    std::string string() {
        std::string s;
        for (expect('"'); peek_raw() != '"'; ++p_) {
            if (*p_ == '\\') ++p_;  // of escapes, paths and tensor names have only \" and \\ .
            s += *p_;
        }
        return ++p_, s;
    }

    char peek_raw() {
        if (p_ == end_) throw std::runtime_error("JSON ends too early");
        return *p_;
    }
};

using Shape = std::vector<size_t>;

struct Tensor {  // float32, row by row; whole numbers are exact up to 2^24, which no token id comes near
    Shape shape;
    std::vector<float> data;

    size_t dim(size_t i) const { return shape.at(i); }
    const float* row(size_t i) const { return &data[i * shape.back()]; }
    float* row(size_t i) { return &data[i * shape.back()]; }
};

size_t count(const Shape& shape) {
    size_t n = 1;
    for (size_t length : shape) n *= length;
    return n;
}

Tensor zeros(const Shape& shape) { return {shape, std::vector<float>(count(shape))}; }

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("can't read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

Json read_json(const std::string& path) { return JsonReader(read_file(path)).value(); }

float half(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    float mantissa = float(bits & 1023);
    float value = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    return bits >> 15 ? -value : value;
}

template <typename T>
T read_as(const char* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

// A safetensors file is the length of a JSON header, in 8 bytes, the header, and the bytes of the tensors.
std::map<std::string, Tensor> read_tensors(const std::string& path) {
    std::string file = read_file(path);
    size_t start = 8 + read_as<uint64_t>(file.data());
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, entry] : JsonReader(file.substr(8, start - 8)).value().members) {
        if (name == "__metadata__") continue;
        Shape shape;
        for (const Json& length : entry["shape"].items) shape.push_back(length.size());
        Tensor tensor = zeros(shape);
        const char* bytes = file.data() + start + entry["data_offsets"].items.at(0).size();
        const std::string& kind = entry["dtype"].text;
        for (float& x : tensor.data) {
            if (kind == "F32") x = read_as<float>(bytes), bytes += 4;
            else if (kind == "F16") x = half(read_as<uint16_t>(bytes)), bytes += 2;
            else if (kind == "I64") x = float(read_as<int64_t>(bytes)), bytes += 8;
            else if (kind == "U8") x = float(read_as<uint8_t>(bytes)), bytes += 1;
            else throw std::runtime_error(name + " is " + kind);
        }
        tensors[name] = tensor;
    }
    return tensors;
}

struct Output {
    Tensor tensor;
    bool whole = false;  // int64 instead of float32
};

void write_tensors(const std::string& path, const std::map<std::string, Output>& outputs) {
    std::string header = "{", bytes;
    for (const auto& [name, output] : outputs) {
        size_t begin = bytes.size();
        for (float x : output.tensor.data) {
            int64_t whole = std::llround(x);
            if (output.whole) bytes.append(reinterpret_cast<const char*>(&whole), 8);
            else bytes.append(reinterpret_cast<const char*>(&x), 4);
        }
        std::string shape;
        for (size_t length : output.tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(length);
        header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"" + (output.whole ? "I64" : "F32") +
                  "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(begin) + "," +
                  std::to_string(bytes.size()) + "]}";
    }
    header += "}";
    uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), 8);
    file << header << bytes;
    if (!file) throw std::runtime_error("can't write " + path);
}

using Outputs = std::map<std::string, Output>;
using Weights = std::map<std::string, Tensor>;

// Activations by the names of their modules in the checkpoint: what trace_image and trace_text answer with.
Weights taps;
const Tensor& tap(const std::string& name, const Tensor& x) { return taps[name] = x; }

// --- yours begins ----------------------------------------------------------------------------------------------------

// Tokens are [N, L, W].

// x [..., I] -> [..., O], of which `weight` is [O, I].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor* bias = nullptr) {
    size_t inputs = weight.dim(1), outputs = weight.dim(0), rows = x.data.size() / inputs;
    Shape shape = x.shape;
    shape.back() = outputs;
    Tensor y = zeros(shape);
    for (size_t r = 0; r < rows; ++r)
        for (size_t o = 0; o < outputs; ++o) {
            float sum = 0;  // a bias is added last: it may be so large that what is added to it is rounded off
            for (size_t i = 0; i < inputs; ++i) sum += x.row(r)[i] * weight.row(o)[i];
            y.row(r)[o] = bias ? sum + bias->data[o] : sum;
        }
    return y;
}

Tensor linear(const Tensor& x, const Weights& w, const std::string& name) {
    return linear(x, w.at(name + ".weight"), &w.at(name + ".bias"));
}

// x [..., I] @ proj [I, O].
Tensor projected(const Tensor& x, const Tensor& proj) {
    Tensor transposed = zeros({proj.dim(1), proj.dim(0)});
    for (size_t i = 0; i < proj.dim(0); ++i)
        for (size_t o = 0; o < proj.dim(1); ++o) transposed.row(o)[i] = proj.row(i)[o];
    return linear(x, transposed);
}

Tensor layer_norm(Tensor x, const Weights& w, const std::string& name) {
    const Tensor &gain = w.at(name + ".weight"), &bias = w.at(name + ".bias");
    size_t width = gain.dim(0);
    for (size_t r = 0; r < x.data.size() / width; ++r) {
        float *y = x.row(r), mean = 0, variance = 0;
        for (size_t i = 0; i < width; ++i) mean += y[i] / width;
        for (size_t i = 0; i < width; ++i) variance += (y[i] - mean) * (y[i] - mean) / width;
        for (size_t i = 0; i < width; ++i)
            y[i] = (y[i] - mean) / std::sqrt(variance + 1e-5f) * gain.data[i] + bias.data[i];
    }
    return x;
}

Tensor sum(Tensor x, const Tensor& y) {
    return std::transform(x.data.begin(), x.data.end(), y.data.begin(), x.data.begin(), std::plus<>()), x;
}

Tensor attention(const Tensor& x, const Weights& w, const std::string& name, size_t heads, bool causal) {
    Tensor qkv = linear(x, w.at(name + ".in_proj_weight"), &w.at(name + ".in_proj_bias"));  // q, then k, then v
    size_t length = x.dim(1), width = x.dim(2), d = width / heads;
    Tensor y = zeros(x.shape);
    std::vector<float> scores(length);
    for (size_t n = 0; n < x.dim(0); ++n)
        for (size_t h = 0; h < heads; ++h)
            for (size_t i = 0; i < length; ++i) {
                size_t seen = causal ? i + 1 : length;
                const float* q = qkv.row(n * length + i) + h * d;
                for (size_t j = 0; j < seen; ++j) {
                    const float* k = qkv.row(n * length + j) + width + h * d;
                    scores[j] = 0;
                    for (size_t c = 0; c < d; ++c) scores[j] += q[c] * k[c];
                    scores[j] /= std::sqrt(float(d));
                }
                float largest = *std::max_element(scores.begin(), scores.begin() + seen), total = 0;
                for (size_t j = 0; j < seen; ++j) total += scores[j] = std::exp(scores[j] - largest);
                for (size_t j = 0; j < seen; ++j) {
                    const float* v = qkv.row(n * length + j) + 2 * width + h * d;
                    for (size_t c = 0; c < d; ++c) y.row(n * length + i)[h * d + c] += scores[j] / total * v[c];
                }
            }
    return linear(y, w, name + ".out_proj");
}

Tensor activated(Tensor x, const std::string& kind) {
    bool quick = kind == "quick_gelu";
    for (float& y : x.data) y = quick ? y / (1 + std::exp(-1.702f * y)) : y * (1 + std::erf(y / std::sqrt(2.0f))) / 2;
    return x;
}

Tensor transformer(Tensor x, const Weights& w, const std::string& prefix, const Json& config, bool causal) {
    for (size_t i = 0; i < config["layers"].size(); ++i) {
        std::string block = prefix + "resblocks." + std::to_string(i);
        Tensor y = tap(block + ".ln_1", layer_norm(x, w, block + ".ln_1"));
        x = sum(x, tap(block + ".attn", attention(y, w, block + ".attn", config["heads"].size(), causal)));
        y = linear(tap(block + ".ln_2", layer_norm(x, w, block + ".ln_2")), w, block + ".mlp.c_fc");
        x = sum(x, tap(block + ".mlp", linear(activated(y, config["activation"].text), w, block + ".mlp.c_proj")));
        tap(block, x);
    }
    return x;
}

// Of each item of x [N, L, W], one position: [N, W].
Tensor picked(const Tensor& x, const std::vector<size_t>& positions) {
    Tensor y = zeros({x.dim(0), x.dim(2)});
    for (size_t n = 0; n < x.dim(0); ++n)
        std::copy_n(x.row(n * x.dim(1) + positions[n]), x.dim(2), y.row(n));
    return y;
}

Tensor encode_image(const Tensor& pixels, const Weights& w, const Json& config) {
    size_t patch = config["patch_size"].size(), side = pixels.dim(3), grid = side / patch, n = pixels.dim(0);
    Tensor patches = zeros({n, grid * grid, 3 * patch * patch});
    for (size_t i = 0; i < n; ++i)
        for (size_t row = 0; row < grid; ++row)
            for (size_t column = 0; column < grid; ++column) {
                float* to = patches.row((i * grid + row) * grid + column);
                for (size_t colour = 0; colour < 3; ++colour)
                    for (size_t y = row * patch; y < (row + 1) * patch; ++y)
                        to = std::copy_n(pixels.row((i * 3 + colour) * side + y) + column * patch, patch, to);
            }
    Tensor kernel = w.at("visual.conv1.weight");
    size_t width = kernel.dim(0);
    kernel.shape = {width, 3 * patch * patch};
    Tensor embedded = tap("visual.conv1", linear(patches, kernel)), x = zeros({n, grid * grid + 1, width});
    const Tensor& positions = w.at("visual.positional_embedding");
    for (size_t i = 0; i < n; ++i)
        for (size_t t = 0; t < x.dim(1); ++t) {
            const float* token = t ? embedded.row(i * grid * grid + t - 1) : w.at("visual.class_embedding").data.data();
            for (size_t c = 0; c < width; ++c) x.row(i * x.dim(1) + t)[c] = token[c] + positions.row(t)[c];
        }
    x = transformer(tap("visual.ln_pre", layer_norm(x, w, "visual.ln_pre")), w, "visual.transformer.", config, false);
    Tensor y = tap("visual.ln_post", layer_norm(picked(x, std::vector<size_t>(n, 0)), w, "visual.ln_post"));
    return projected(y, w.at("visual.proj"));
}

Tensor encode_text(const Tensor& ids, const Weights& w, const Json& config) {
    const Tensor &embedding = w.at("token_embedding.weight"), &positions = w.at("positional_embedding");
    Tensor tokens = zeros({ids.dim(0), ids.dim(1), embedding.dim(1)});
    std::vector<size_t> ends;
    for (size_t n = 0; n < ids.dim(0); ++n) {
        for (size_t t = 0; t < ids.dim(1); ++t)
            std::copy_n(embedding.row(size_t(ids.row(n)[t])), embedding.dim(1), tokens.row(n * ids.dim(1) + t));
        ends.push_back(std::max_element(ids.row(n), ids.row(n) + ids.dim(1)) - ids.row(n));  // the first of the largest
    }
    Tensor x = tap("token_embedding", tokens);
    for (size_t t = 0; t < ids.data.size(); ++t)
        for (size_t c = 0; c < x.dim(2); ++c) x.row(t)[c] += positions.row(t % ids.dim(1))[c];
    x = tap("ln_final", layer_norm(transformer(x, w, "transformer.", config, true), w, "ln_final"));
    return projected(picked(x, ends), w.at("text_projection"));
}

// --- yours ends ------------------------------------------------------------------------------------------------------

Tensor unit_vectors(Tensor x) {
    for (size_t r = 0; r < x.dim(0); ++r) {
        float squares = 0;
        for (size_t i = 0; i < x.dim(1); ++i) squares += x.row(r)[i] * x.row(r)[i];
        for (size_t i = 0; i < x.dim(1); ++i) x.row(r)[i] /= std::sqrt(squares);
    }
    return x;
}

Outputs similarity(const Tensor& image, const Tensor& text, float logit_scale) {
    Tensor a = unit_vectors(image), b = unit_vectors(text), cosines = zeros({a.dim(0), b.dim(0)});
    for (size_t i = 0; i < a.dim(0); ++i)
        for (size_t j = 0; j < b.dim(0); ++j)
            for (size_t c = 0; c < a.dim(1); ++c) cosines.row(i)[j] += a.row(i)[c] * b.row(j)[c];
    Tensor logits = cosines;
    for (float& x : logits.data) x *= std::exp(logit_scale);
    return {{"cosines", {cosines}}, {"logits", {logits}}};
}

Outputs describe(const Json& config) {
    auto whole = [](const Json& number) { return Output{{{}, {float(number.size())}}, true}; };
    const Json& text = config["text"];
    return {{"embed_dim", whole(config["embed_dim"])}, {"resolution", whole(config["vision"]["resolution"])},
            {"context_length", whole(text["context_length"])}, {"vocab_size", whole(text["vocab_size"])}};
}

// The outputs of a verb by name. None for what this engine doesn't do: ResNets; tokenize, preprocess, operation,
// embed_image, embed_text and compare.
std::optional<Outputs> answer(const std::string& verb, const std::string& folder) {
    bool image = verb == "encode_image" || verb == "trace_image", text = verb == "encode_text" || verb == "trace_text";
    if (!image && !text && verb != "describe" && verb != "similarity") return std::nullopt;
    Weights inputs = read_tensors(folder + "inputs.safetensors");
    if (verb == "similarity")
        return similarity(inputs.at("image"), inputs.at("text"), inputs.at("logit_scale").data.at(0));
    std::string checkpoint = read_json(folder + "case.json")["checkpoint"].text + "/";
    if (checkpoint[0] != '/') checkpoint = folder + checkpoint;
    Json config = read_json(checkpoint + "config.json");
    if (verb == "describe") return describe(config);
    if (image && config["vision"]["kind"].text != "vit") return std::nullopt;
    Weights w = read_tensors(checkpoint + "model.safetensors");
    std::optional<Tensor> embeddings = image ? encode_image(inputs.at("pixels"), w, config["vision"])
                                             : encode_text(inputs.at("ids"), w, config["text"]);
    Outputs outputs;
    if (embeddings) outputs["embeddings"] = {*embeddings};
    if (verb[0] == 't')
        for (const auto& [name, x] : taps) outputs[name] = {x};
    return outputs.empty() ? std::nullopt : std::optional(outputs);
}

int main(int argc, char** argv) try {
    if (argc != 4) throw std::runtime_error("usage: engine VERB CASE_DIR OUT.safetensors");
    std::optional<Outputs> outputs = answer(argv[1], std::string(argv[2]) + "/");
    if (!outputs) return std::cerr << "declined: " << argv[1] << "\n", 3;
    write_tensors(argv[3], *outputs);
    return 0;
} catch (const std::exception& problem) {
    std::cerr << problem.what() << "\n";
    return 1;
}
