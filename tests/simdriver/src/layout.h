// How the structs of an ABI that we declare ourselves are held to their documented layout.
#pragma once
#include <stddef.h>

// LAYOUT(type, size, AT(field, offset) AT(field, offset) …) fails to compile where one differs.
#define AT(field, offset) &&offsetof(Checked, field) == offset
#define LAYOUT(type, size, fields)                  \
  static_assert(                                    \
      [] {                                          \
        using Checked = type;                       \
        return sizeof(Checked) == (size) fields;    \
      }(),                                          \
      "layout of " #type);
