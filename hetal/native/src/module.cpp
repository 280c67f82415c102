// The Python face of the engine; _engine.pyi documents it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "src/engine.h"
#include "src/measure.h"

namespace nb = nanobind;
using namespace hetal;

namespace {

typedef nb::ndarray<const u64, nb::numpy, nb::ndim<2>, nb::c_contig, nb::device::cpu> Residues;
typedef nb::ndarray<const double, nb::numpy, nb::ndim<1>, nb::c_contig, nb::device::cpu> Coefficients;
typedef nb::ndarray<const u64, nb::numpy, nb::ndim<1>, nb::c_contig, nb::device::cpu> Line;
typedef std::vector<size_t> Offsets;
typedef std::pair<const Poly *, const Poly *> Parts;

// A view of a bytes-like object, held while it lives.
struct Buffer {
  Py_buffer view;
  Buffer(nb::handle object, bool writable) {
    if (PyObject_GetBuffer(object.ptr(), &view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) throw nb::python_error();
  }
  Buffer(const Buffer &) = delete;
  ~Buffer() { PyBuffer_Release(&view); }
  unsigned char *data() const { return static_cast<unsigned char *>(view.buf); }
  size_t size() const { return view.len; }
};

template <class F>
auto unlocked(F f) {
  nb::gil_scoped_release release;
  return f();
}

nb::ndarray<nb::numpy, u64> array(std::vector<u64> *words, std::initializer_list<size_t> shape) {
  nb::capsule owner(words, [](void *p) noexcept { delete static_cast<std::vector<u64> *>(p); });
  return nb::ndarray<nb::numpy, u64>(words->data(), shape, owner);
}

Offsets limb_offsets(const Ring &ring, size_t limbs) {
  Offsets offsets;
  for (size_t i = 0; i < limbs; ++i) offsets.push_back(i * ring.dimension * 8);
  return offsets;
}

nb::ndarray<nb::numpy, u64> transform_line(Ring &ring, Line values, int limb, bool forward) {
  auto *words = new std::vector<u64>(values.data(), values.data() + values.size());
  auto result = array(words, {values.size()});
  unlocked([&] { ring.transform_limb(*words, limb, forward); return 0; });
  return result;
}

}  // namespace

NB_MODULE(_engine, m) {
  nb::class_<Poly>(m, "Poly")
      .def_ro("q_limbs", &Poly::q_limbs)
      .def_ro("p_limbs", &Poly::p_limbs)
      .def_prop_ro("run", [](const Poly &a) { return 1 << a.log2_run; })
      .def_prop_ro("nbytes", &Poly::bytes);

  nb::class_<Key>(m, "Key")
      .def_ro("q_limbs", &Key::q_limbs)
      .def_ro("p_limbs", &Key::p_limbs)
      .def_prop_ro("digits", [](const Key &k) { return k.b.size(); })
      .def_prop_ro("nbytes", [](const Key &k) {
        size_t sum = 0;
        for (size_t d = 0; d < k.b.size(); ++d) sum += k.b[d].bytes() + k.a[d].bytes();
        return sum;
      });

  nb::class_<Ring>(m, "Ring")
      .def(nb::init<int, const Moduli &, const Moduli &, const Moduli &, int, int, const std::string &>(),
           nb::arg("log2_dimension"), nb::arg("q"), nb::arg("p"), nb::arg("wire_p"), nb::arg("digit_limbs"),
           nb::arg("threads") = 1, nb::arg("variant") = "auto")
      .def_ro("dimension", &Ring::dimension)
      .def_ro("threads", &Ring::threads)
      .def_prop_ro("variant", [](const Ring &r) { return std::string(r.kernels.name); })
      .def_prop_ro("pool_bytes", &Ring::pool_bytes)
      .def("zeros", &Ring::zeros, nb::arg("q_limbs"), nb::arg("p_limbs") = 0)
      .def(
          "from_residues",
          [](Ring &r, Residues residues, int p_limbs) {
            if ((long)residues.shape(1) != r.dimension) throw std::invalid_argument("a limb has N residues");
            return unlocked([&] {
              return r.read(reinterpret_cast<const unsigned char *>(residues.data()), residues.nbytes(),
                            limb_offsets(r, residues.shape(0)), (int)residues.shape(0) - p_limbs, p_limbs);
            });
          },
          nb::arg("residues"), nb::arg("p_limbs") = 0)
      .def("residues",
           [](Ring &r, const Poly &a) {
             auto *words = new std::vector<u64>(a.limbs.size() * r.dimension);
             auto result = array(words, {a.limbs.size(), (size_t)r.dimension});
             unlocked([&] {
               r.write(a, reinterpret_cast<unsigned char *>(words->data()), words->size() * 8,
                       limb_offsets(r, a.limbs.size()));
               return 0;
             });
             return result;
           })
      .def(
          "from_coefficients",
          [](Ring &r, Coefficients c, int q_limbs, int p_limbs) {
            return unlocked([&] { return r.from_coefficients(c.data(), (long)c.size(), q_limbs, p_limbs); });
          },
          nb::arg("coefficients"), nb::arg("q_limbs"), nb::arg("p_limbs") = 0)
      .def(
          "read",
          [](Ring &r, nb::handle data, const Offsets &offsets, int q_limbs) {
            Buffer buffer(data, false);
            return unlocked([&] { return r.read(buffer.data(), buffer.size(), offsets, q_limbs, 0); });
          },
          nb::arg("data"), nb::arg("offsets"), nb::arg("q_limbs"))
      .def(
          "write",
          [](Ring &r, const Poly &a, nb::handle out, const Offsets &offsets) {
            Buffer buffer(out, true);
            unlocked([&] { r.write(a, buffer.data(), buffer.size(), offsets); return 0; });
          },
          nb::arg("a"), nb::arg("out"), nb::arg("offsets"))
      .def(
          "read_key",
          [](Ring &r, nb::handle data, const std::vector<std::vector<Offsets>> &offsets, int q_limbs, int p_limbs) {
            Buffer buffer(data, false);
            return unlocked([&] { return r.read_key(buffer.data(), buffer.size(), offsets, q_limbs, p_limbs); });
          },
          nb::arg("data"), nb::arg("offsets"), nb::arg("q_limbs"), nb::arg("p_limbs"))
      .def("add", &Ring::add, nb::call_guard<nb::gil_scoped_release>())
      .def("subtract", &Ring::subtract, nb::call_guard<nb::gil_scoped_release>())
      .def("negate", &Ring::negate, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply", &Ring::multiply, nb::call_guard<nb::gil_scoped_release>())
      .def("dot", &Ring::dot, nb::call_guard<nb::gil_scoped_release>())
      .def("tensor",
           [](Ring &r, Parts a, Parts b) {
             auto out = unlocked([&] {
               const Poly x[2] = {*a.first, *a.second}, y[2] = {*b.first, *b.second};
               return r.tensor(x, y);
             });
             return std::make_tuple(std::move(out[0]), std::move(out[1]), std::move(out[2]));
           })
      .def("multiply_constants", &Ring::multiply_constants, nb::call_guard<nb::gil_scoped_release>())
      .def("add_constants", &Ring::add_constants, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply_monomial", &Ring::multiply_monomial, nb::call_guard<nb::gil_scoped_release>())
      .def("automorphism", &Ring::automorphism, nb::call_guard<nb::gil_scoped_release>())
      .def("truncate", &Ring::truncate)
      .def("adopt", &Ring::adopt, nb::arg("a"), nb::arg("source"))
      .def("extend", &Ring::extend, nb::call_guard<nb::gil_scoped_release>())
      .def("rescale",
           [](Ring &r, const Poly &a) {
             if (a.p_limbs) throw std::invalid_argument("rescale takes a polynomial without special limbs");
             return unlocked([&] { return r.mod_down({&a}, 1)[0]; });
           })
      .def(
          "mod_down",
          [](Ring &r, const Poly &a, int drop) {
            if (!a.p_limbs) throw std::invalid_argument("mod_down takes a polynomial with special limbs");
            return unlocked([&] { return r.mod_down({&a}, drop)[0]; });
          },
          nb::arg("a"), nb::arg("drop") = 0)
      .def(
          "mod_down_pair",
          [](Ring &r, Parts a, int drop) {
            auto out = unlocked([&] { return r.mod_down({a.first, a.second}, drop); });
            return std::make_pair(std::move(out[0]), std::move(out[1]));
          },
          nb::arg("pair"), nb::arg("drop") = 0)
      .def("raise_modulus", &Ring::raise_modulus, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "switch",
          [](Ring &r, const Poly &a, const std::vector<const Key *> &keys, const std::vector<long> &indices,
             nb::object before, nb::object after) {
            Parts first{nullptr, nullptr};
            if (!before.is_none()) {
              auto both = nb::cast<nb::tuple>(before);
              if (both.size() != 2) throw std::invalid_argument("two addends, or None for either, are due");
              first.first = both[0].is_none() ? nullptr : nb::cast<const Poly *>(both[0]);
              first.second = both[1].is_none() ? nullptr : nb::cast<const Poly *>(both[1]);
            }
            std::vector<Parts> last;
            if (!after.is_none()) last = nb::cast<std::vector<Parts>>(after);
            return unlocked([&] { return r.switch_keys(a, keys, indices, first, last); });
          },
          nb::arg("a"), nb::arg("keys"), nb::arg("indices"), nb::arg("before") = nb::none(),
          nb::arg("after") = nb::none())
      .def("transform", [](Ring &r, const std::vector<Parts> &parts, nb::sequence rows) {
        std::vector<std::vector<const Poly *>> diagonals;
        for (nb::handle row : rows) {
          diagonals.emplace_back();
          for (nb::handle d : row) diagonals.back().push_back(d.is_none() ? nullptr : nb::cast<const Poly *>(d));
        }
        return unlocked([&] { return r.transform(parts, diagonals); });
      });

  m.def("variants", &variants);
  m.def("set_sequential", &set_sequential, nb::arg("on"));
  m.def(
      "measure", [](Ring &r, int threads, int rounds) { return unlocked([&] { return measure(r, threads, rounds); }); },
      nb::arg("ring"), nb::arg("threads") = 1, nb::arg("rounds") = 21);
  m.def("forward_ntt", [](Ring &r, Line values, int limb) { return transform_line(r, values, limb, true); });
  m.def("inverse_ntt", [](Ring &r, Line values, int limb) { return transform_line(r, values, limb, false); });
}
