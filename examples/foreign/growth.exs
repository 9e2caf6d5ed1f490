# Logistic growth fitted to a count of yeast cells (Pearl 1927, after Carlson 1913), in Elixir: one
# JSON line in, one out.
#
# x = [limit, rate, middle]; the value is half the sum of squared differences between the data and
# limit / (1 + exp(-rate * (t - middle))).
#
# Solve: downslope minimize --program "elixir growth.exs" --x0 600,0.5,9

defmodule Growth do
  @cells [9.6, 18.3, 29.0, 47.2, 71.1, 119.1, 174.6, 257.3, 350.7, 441.0, 513.3, 559.7, 594.8,
          629.4, 640.8, 651.1, 655.9, 659.6, 661.8]

  def evaluate([limit, rate, middle]) do
    @cells
    |> Enum.with_index()
    |> Enum.reduce({0.0, [0.0, 0.0, 0.0]}, fn {cells, t}, {value, gradient} ->
      share = 1 / (1 + :math.exp(-rate * (t - middle)))
      miss = limit * share - cells
      slope = limit * share * (1 - share)
      partials = [share, slope * (t - middle), -slope * rate]
      {value + 0.5 * miss * miss, Enum.zip_with(gradient, partials, fn g, p -> g + miss * p end)}
    end)
  end

  # The request is {"x": [numbers]}: numbers are all that has to be found in it.
  def parse(line) do
    for [number] <- Regex.scan(~r/-?\d[\d.eE+-]*/, line), do: number |> Float.parse() |> elem(0)
  end

  def answer(line) do
    {value, gradient} = line |> parse() |> evaluate()
    ~s({"value": #{value}, "gradient": [#{Enum.join(gradient, ", ")}]})
  rescue
    # exp overflows far from the data: the function is not defined there
    ArithmeticError -> ~s({"value": null})
  end
end

for line <- IO.stream(:stdio, :line), do: IO.puts(Growth.answer(line))
