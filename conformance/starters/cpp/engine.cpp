// A starter for an engine of CLIP under test, C++17 without any library. It compiles and answers as it stands:
//
//     g++ -O2 -std=c++17 engine.cpp -o engine
//     clipref conformance run exec:./engine --levels describe taps similarity
//
// It is called as `engine VERB CASE_DIR OUT.safetensors`, reads CASE_DIR/case.json and CASE_DIR/inputs.safetensors,
// writes the outputs to OUT.safetensors and exits with 0, or with 3 for what it doesn't do. Your CLIP belongs between
// "yours begins" and "yours ends"; the rest may stay as it is.

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

// Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised; nothing as long as it isn't done. `config` is
// "vision" of config.json, `w` the tensors of model.safetensors by name.
std::optional<Tensor> encode_image(const Tensor& pixels, const Weights& w, const Json& config) {
    // A first activation, to show how a trace is asked: the patches [N, G*G, W], row by row from the top left.
    const Tensor& kernel = w.at("visual.conv1.weight");  // [W, 3, P, P]
    size_t n = pixels.dim(0), side = pixels.dim(3), patch = config["patch_size"].size(), grid = side / patch;
    Tensor patches = zeros({n, grid * grid, kernel.dim(0)});
    for (size_t i = 0; i < n; ++i)
        for (size_t t = 0; t < grid * grid; ++t)
            for (size_t c = 0; c < kernel.dim(0); ++c)
                for (size_t k = 0; k < 3 * patch * patch; ++k) {
                    size_t colour = k / (patch * patch), y = t / grid * patch + k / patch % patch;
                    patches.row(i * grid * grid + t)[c] += kernel.data[c * 3 * patch * patch + k] *
                        pixels.row((i * 3 + colour) * side + y)[t % grid * patch + k % patch];
                }
    tap("visual.conv1", patches);
    return std::nullopt;  // TODO: your image tower. Return its embeddings, and `tap` what it computes on the way.
}

// Ids [N, T], padded with 0 -> embeddings [N, E], of the first end of text, whose id is vocab_size - 1.
std::optional<Tensor> encode_text(const Tensor& ids, const Weights& w, const Json& config) {
    const Tensor& embedding = w.at("token_embedding.weight");  // [V, W]
    Tensor x = zeros({ids.dim(0), ids.dim(1), config["width"].size()});
    for (size_t i = 0; i < ids.data.size(); ++i)
        std::copy_n(embedding.row(size_t(ids.data[i])), embedding.dim(1), x.row(i));
    tap("token_embedding", x);
    return std::nullopt;  // TODO: your text tower.
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
