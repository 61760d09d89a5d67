// SHA-256 (FIPS 180-4) as hexadecimal digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mdistill {

inline std::string sha256(const char *data, size_t size) {
  // Fractions of the square (cube) roots of the first primes give the start (constants).
  uint32_t constants[64], state[8];
  const auto fraction = [](int prime, int root) {  // 32 bits of the fraction of the root, by bisection in whole numbers
    unsigned __int128 low = 0, high = static_cast<unsigned __int128>(1) << 37;
    while (high - low > 1) {
      const unsigned __int128 middle = (low + high) / 2;
      const bool below = root == 2 ? middle * middle <= static_cast<unsigned __int128>(prime) << 64
                                   : middle * middle * middle <= static_cast<unsigned __int128>(prime) << 96;
      (below ? low : high) = middle;
    }
    return static_cast<uint32_t>(low);
  };
  for (int n = 0, prime = 2; n < 64; ++prime) {
    bool divides = false;
    for (int q = 2; q * q <= prime; ++q) divides |= prime % q == 0;
    if (divides) continue;
    constants[n] = fraction(prime, 3);
    if (n < 8) state[n] = fraction(prime, 2);
    ++n;
  }
  std::vector<uint8_t> message(data, data + size);
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8) message.push_back(static_cast<uint8_t>(static_cast<uint64_t>(size) * 8 >> shift));
  const auto turn = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t at = 0; at < message.size(); at += 64) {
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; ++t)
      w[t] = uint32_t(message[at + 4 * t]) << 24 | message[at + 4 * t + 1] << 16 | message[at + 4 * t + 2] << 8 | message[at + 4 * t + 3];
    for (int t = 16; t < 64; ++t) {
      const uint32_t a = w[t - 15], b = w[t - 2];
      w[t] = w[t - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[t - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; ++i) v[i] = state[i];
    for (int t = 0; t < 64; ++t) {
      const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]), majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      const uint32_t one = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + choice + constants[t] + w[t];
      const uint32_t two = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + majority;
      for (int i = 7; i > 0; --i) v[i] = v[i - 1];
      v[4] += one, v[0] = one + two;
    }
    for (int i = 0; i < 8; ++i) state[i] += v[i];
  }
  std::string digits;
  for (int i = 0; i < 8; ++i)
    for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[state[i] >> shift & 15];
  return digits;
}

}  // namespace mdistill
