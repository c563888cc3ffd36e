// Nodes of the autograd graph: what torch::autograd::Function::apply does, but under the transforms
// of torch.func as well. Function::apply refuses those, because a Function's own code might escape
// them. Ours calls nothing but operators of the dispatcher, which the transforms see.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <tuple>
#include <type_traits>

namespace mmdk {

// Nodes are counted by std::shared_ptr, in newer releases by c10::intrusive_ptr.
template <typename Node>
auto make_node() {
  using Pointer = decltype(torch::autograd::Edge::function);
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    // deleteNode takes long graphs apart without recursion; it exists in those releases only.
    return std::shared_ptr<Node>(new Node, [](Node* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>();
  }
}

// The node that differentiates an operator of these tensor arguments, in the schema's order; null
// when no argument requires a gradient. `Operator` has what a Function has, `backward` and
// `is_traceable` (for compiled autograd), and the operator's `name`.
template <typename Operator, typename... Tensors>
auto node_for(const Tensors&... tensors) {
  using Node = torch::autograd::CppNode<Operator>;
  TORCH_CHECK_NOT_IMPLEMENTED(!(torch::autograd::isFwGradDefined(tensors) || ...), Operator::name,
                              ": forward-mode derivatives (torch.func.jvp, jacfwd, "
                              "torch.autograd.forward_ad) are not implemented; use reverse mode: "
                              "torch.func.vjp, jacrev or backward()");
  decltype(make_node<Node>()) node;
  if (torch::autograd::compute_requires_grad(tensors...)) {
    node = make_node<Node>();
    node->set_ctx_grad_fn(node);
    node->set_next_edges(torch::autograd::collect_next_edges(tensors...));
    // An absent argument has an edge that leads nowhere: edges count like arguments.
    node->is_variable_input_.assign(sizeof...(tensors), true);
    node->ctx_.set_materialize_grads(false);
  }
  return node;
}

// Computes an operator's result below autograd and makes `node`, if any, its history.
template <typename NodePointer, typename Compute>
auto record(const NodePointer& node, const Compute& compute) {
  auto result = [&] {
    at::AutoDispatchBelowADInplaceOrView guard;
    return compute();
  }();
  if (node) {
    const auto set_history = [&](at::Tensor& tensor) {
      torch::autograd::set_history(tensor, node);
      node->output_info_.emplace_back(tensor);
    };
    if constexpr (std::is_same_v<decltype(result), at::Tensor>) {
      set_history(result);
    } else {
      std::apply([&](auto&... tensors) { (set_history(tensors), ...); }, result);
    }
    node->save_variables_to_ctx();
  }
  return result;
}

}  // namespace mmdk
