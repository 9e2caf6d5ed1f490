// Orthogonalisation on the threads of XLA's pool, called by XLA.

#include <atomic>
#include <thread>

#include "polar.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Threads of a pool in which other work may be before them: nobody waits for one to come, only for what those
// that came have taken. One that comes late finds what is done, and passes it by.
class Team {
  public:
    explicit Team(ffi::ThreadPool& pool) : pool(pool) {}

    // Call `f(hand)` on this thread, and on as many of the pool as come before it is through.
    template <class F>
    void run(long hands, F f) {
        turn = 0;
        const auto door = std::make_shared<Door>();
        const Closing closing{*door};
        for (long hand = 1; hand < hands; hand++)
            pool.Schedule([=, &f] {
                if (!door->enter()) return;
                part = 0;
                f(hand);
                door->leave();
            });
        part = 0;
        f(0L);
    }

    // Share a range among the threads that `run` called, all of which call this.
    template <class F>
    void each(long count, F f) {
        if (!count) return;
        const uint64_t mine = part++;
        for (uint64_t now = turn; now >> 32 == mine;) {
            if (const long i = uint32_t(now); i == count) {
                std::this_thread::yield();
                now = turn;
            } else if (turn.compare_exchange_weak(now, now + 1)) {
                f(i);
                if (++done == count) {
                    done = 0;
                    turn = (mine + 1) << 32;
                }
                now = turn;
            }
        }
    }

  private:
    // Lets threads in until it is closed.
    class Door {
      public:
        bool enter() {
            long now = inside;
            while (now >= 0)
                if (inside.compare_exchange_weak(now, now + 1)) return true;
            return false;
        }
        void leave() { inside--; }
        void close() {
            for (inside += SHUT; inside != SHUT;) std::this_thread::yield();
        }

      private:
        static constexpr long SHUT = -(1L << 40);
        std::atomic<long> inside{0};
    };
    struct Closing {
        Door& door;
        ~Closing() { door.close(); }
    };

    ffi::ThreadPool& pool;
    std::atomic<uint64_t> turn{0};  // the number of the range that is shared out, and how many are taken of it
    std::atomic<long> done{0};      // how many of those are through
    static thread_local uint64_t part;  // the number of the range that this thread comes to
};

thread_local uint64_t Team::part;

// Whole stacks of matrices of one shape go in, and their polar factors out.
ffi::Error polar_of(ffi::ThreadPool pool, ffi::RemainingArgs stacks, ffi::RemainingRets results,
                    ffi::Span<const int32_t> program, int64_t squares, int32_t multiplier) try {
    std::vector<const float*> from;
    std::vector<float*> to;
    long rows = 0, columns = 0;
    for (size_t i = 0; i < stacks.size(); i++) {
        const auto stack = stacks.get<ffi::Buffer<ffi::F32>>(i);
        auto result = results.get<ffi::Buffer<ffi::F32>>(i);
        if (!stack.has_value()) return stack.error();
        if (!result.has_value()) return result.error();
        const auto shape = stack->dimensions();
        rows = shape[shape.size() - 2], columns = shape.back();
        for (size_t j = 0; j < stack->element_count(); j += rows * columns) {
            from.push_back(stack->typed_data() + j);
            to.push_back((*result)->typed_data() + j);
        }
    }
    Team team(pool);
    const auto source = [&](long i) { return Given{from[i], to[i], columns, {}}; };
    const long length = program.size() * sizeof(int32_t) / sizeof(Instruction);
    const long threads = std::max<long>(1, pool.num_threads());
    if (orthogonalise_by(multiplier, team, source, from.size(), rows, columns, (const Instruction*)program.begin(),
                         length, squares, threads, nullptr))
        throw std::bad_alloc();
    return ffi::Error::Success();
} catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to orthogonalise matrices");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(polar, polar_of,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int32_t>>("program")
                                  .Attr<int64_t>("squares")
                                  .Attr<int32_t>("multiplier"));
